"""The rivals, each run by the interpreter of its own virtual environment."""
