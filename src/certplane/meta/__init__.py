"""What every object and every request shares. Pure: no I/O."""
