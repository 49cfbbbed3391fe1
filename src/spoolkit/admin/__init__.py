"""What people see of jobs and do to them, without HTTP and without click."""
