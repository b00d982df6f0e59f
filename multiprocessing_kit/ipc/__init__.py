"""SysV shared memory, semaphores, the ring and the payload codec: bytes between processes."""
