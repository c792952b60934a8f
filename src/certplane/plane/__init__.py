"""Assembly: a control plane, its controllers, and the processes of `certplane serve` and `certplane controllers`."""
