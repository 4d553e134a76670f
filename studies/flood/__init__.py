"""Flood surrogates: networks that predict water depths, and the simulator that they learn from."""
