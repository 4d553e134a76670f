"""This machine, or what an allocation has of one: slots, and the jobs in them."""
