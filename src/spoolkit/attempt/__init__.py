"""One attempt of one job: how it is claimed, called, limited, watched, decided and recorded."""
