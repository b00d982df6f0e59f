"""Answers that outlive the program: a file that the same call goes on from."""
