"""The commands, each in a module of its own; ``ctm.cli`` puts them on the command line."""
