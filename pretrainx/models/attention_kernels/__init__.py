"""Kernels of attention, one file each behind one interface (`case.Kernel`), and what they are asked for."""
