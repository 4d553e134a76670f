"""What runs inside jobs: their side of the record, and the agent of an allocation."""
