"""The parts that controllers share: work queue, leader election, record of decisions."""
