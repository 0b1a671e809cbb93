"""What watches a run: signals, notices of maintenance, loss spikes, steps computed twice, lost and hung processes; faults for tests."""
