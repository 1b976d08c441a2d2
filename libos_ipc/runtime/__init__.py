"""The edge: sockets, threads, files and processes. It performs what the core decides."""
