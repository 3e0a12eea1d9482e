"""`make demo`: ordinary users' jobs run in virtual worker nodes made for them, on a real Slurm and real QEMU."""
