"""The commands, each in a module of its own; ``pipelines.cli`` puts them on the command line.

What a command needs of kfp, Docker or DVC is imported when it is called: help and `new-data` work without.
"""
