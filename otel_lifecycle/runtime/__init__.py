"""Threads, forks, the end of a process, files, clocks, logging and safe text."""
