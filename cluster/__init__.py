"""Ray: one session, pools of workers, placement, submission."""
