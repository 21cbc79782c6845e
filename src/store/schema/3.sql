-- Small files have places of their own beside the large ones: the smallest that waits is found at once.
CREATE INDEX jobs_waiting_by_size ON jobs (size, id) WHERE state = 'queued';
