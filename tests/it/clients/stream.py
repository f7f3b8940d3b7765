"""Prints all messages of the stream, a line each: subject, blank, data.

usage: stream.py HOST:PORT of a NATS server
"""

import base64
import importlib.util
import pathlib
import sys

sys.dont_write_bytecode = True
path = pathlib.Path(__file__).parents[3] / "contrib" / "events-to-nats.py"
spec = importlib.util.spec_from_file_location("events_to_nats", path)
bridge = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bridge)

broker = bridge.Broker(sys.argv[1])
info = broker.ask("STREAM.INFO.VMINFOD", {})
for seq in range(1, info["state"]["last_seq"] + 1 if "state" in info else 1):
    message = broker.ask("STREAM.MSG.GET.VMINFOD", {"seq": seq})["message"]
    data = base64.b64decode(message["data"]).decode()
    print(message["subject"], data)
