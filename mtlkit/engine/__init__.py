"""The engine: the loop, evaluation, the run folder. It is handed built objects, and knows no name."""
