"""Families of problems. A workload is data + model + metric; the rooms use it without knowing which one it is."""
