"""The networks: A-MESS, its parts, and the methods that it is compared with."""
