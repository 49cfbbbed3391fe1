from spoolkit import SpoolKit

background_tasks = SpoolKit()
