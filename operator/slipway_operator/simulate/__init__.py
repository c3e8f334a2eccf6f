"""`slipway-simulate`: a recorded or made-up day of traffic against an autoscaling policy, in seconds."""
