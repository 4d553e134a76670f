"""What is to be done about an experiment, given all that is known. Nothing here asks, writes or submits."""
