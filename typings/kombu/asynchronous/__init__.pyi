from kombu.asynchronous.hub import Hub as Hub, get_event_loop as get_event_loop, set_event_loop as set_event_loop
