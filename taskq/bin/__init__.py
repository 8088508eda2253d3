"""This package is the command line: `taskq`, and its commands."""
