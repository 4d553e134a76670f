"""The local machine, or an allocation's share of one: slots, and the jobs in them."""
