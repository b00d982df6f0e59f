"""joblib on the runner: to import this module registers the backend "multiprocessing_kit".

with joblib.parallel_config(backend="multiprocessing_kit", n_jobs=2):
    joblib.Parallel()(joblib.delayed(function)(each) for each in inputs)
"""

from joblib import register_parallel_backend

from multiprocessing_kit.joblib_backend.backend import ForkBackend

__all__ = ["ForkBackend"]

register_parallel_backend("multiprocessing_kit", ForkBackend)
