//! A crash at each point of the log's seam and of the disk, each at several moments.
