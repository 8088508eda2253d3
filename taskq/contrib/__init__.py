"""This package is what taskq adds for other programs: web frameworks, tests."""
