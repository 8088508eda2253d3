"""A blog whose comments are looked at by a spam filter."""
