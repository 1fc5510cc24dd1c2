"""Commands around trained models, each in a module of its own; ``ctm.cli`` puts them on the command line."""
