"""What a visitor of the site sees of one job: a progress bar, behind a signed URL."""
