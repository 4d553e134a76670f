"""What the runs of this study do, a module for each task."""
