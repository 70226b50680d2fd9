"""From a resolved specification to published artifacts: the steps of a job, in order."""
