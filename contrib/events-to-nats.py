#!/usr/bin/env python3
"""Brings the events of this host's VMs into a stream of NATS JetStream.

usage: events-to-nats.py [--nats HOST:PORT] [--stream NAME] [--node NAME]
                         [--vminfod PROGRAM] [--create]

Each event of `vminfod events -j` is published on NODE's subjects:

    vminfod.NODE.UUID.create|modify|delete   as the daemon tells it
    vminfod.NODE.-.reset                     what was known no longer holds
    vminfod.NODE.UUID.snapshot               one VM, as it is now
    vminfod.NODE.-.ready                     that was all of them

It keeps no state: where it goes on it learns from the last message that the
stream has of this node, and an event that is published twice is stored once,
since its number and the daemon's epoch are its message's id. If the broker or
the daemon can't go on, it ends with status 1, to be started again.

Needs Python 3.7 and nothing else. --create makes the stream if there is none.
"""

import argparse
import base64
import collections
import json
import os
import socket
import subprocess
import sys

# Messages on their way: the broker stores one while the next are sent.
WINDOW = 256

# How long the broker may take for anything, in seconds.
BROKER_TIME = 30

# Ids are kept so long by a stream that --create makes.
DUPLICATES_TIME = 3600 * 10**9


class Broker:
    """A connection to a NATS server, by its text protocol."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), BROKER_TIME)
        self.file = self.socket.makefile("rb")
        self.inbox = "_INBOX.vminfod.%s.%d" % (
            socket.gethostname().replace(".", "-"),
            self.socket.getsockname()[1],
        )
        self.info = json.loads(self.line().split(None, 1)[1])
        options = {"verbose": False, "pedantic": False, "headers": True}
        self.send(b"CONNECT %s\r\n" % json.dumps(options).encode())
        self.send(b"SUB %s.* 1\r\nPING\r\n" % self.inbox.encode())
        while self.line() != b"PONG":
            pass
        self.count = 0

    def send(self, data):
        self.socket.sendall(data)

    def line(self):
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise EOFError("the broker has closed the connection")
        line = line[:-2]
        if line.startswith(b"-ERR"):
            raise OSError("the broker says " + line.decode())
        return line

    def publish(self, subject, data, message_id=None):
        """Sends a message; its answer comes under the number returned."""
        self.count += 1
        reply = "%s.%d" % (self.inbox, self.count)
        if message_id is None:
            head = "PUB %s %s %d\r\n" % (subject, reply, len(data))
            self.send(head.encode() + data + b"\r\n")
        else:
            headers = b"NATS/1.0\r\nNats-Msg-Id: %s\r\n\r\n" % (
                message_id.encode()
            )
            head = "HPUB %s %s %d %d\r\n" % (
                subject,
                reply,
                len(headers),
                len(headers) + len(data),
            )
            self.send(head.encode() + headers + data + b"\r\n")
        return self.count

    def answer(self):
        """The next answer: the number that it is to, and what it says."""
        while True:
            words = self.line().split()
            if words[:1] == [b"PING"]:
                self.send(b"PONG\r\n")
            if words[:1] not in ([b"MSG"], [b"HMSG"]):
                continue
            data = self.file.read(int(words[-1]) + 2)[:-2]
            if words[0] == b"HMSG":
                headers, data = data.split(b"\r\n\r\n", 1)
                if b" 503" in headers.split(b"\r\n")[0]:
                    raise OSError("the broker has no JetStream")
            number = int(words[1].rsplit(b".", 1)[1])
            return number, json.loads(data)

    def ask(self, subject, question):
        """The answer of JetStream's interface to a question."""
        number = self.publish("$JS.API." + subject, json.dumps(question).encode())
        while True:
            answered, said = self.answer()
            if answered == number:
                return said


class Bridge:
    """From the daemon's events to a stream."""

    def __init__(self, broker, stream, node):
        self.broker = broker
        self.stream = stream
        self.prefix = "vminfod.%s." % node
        self.on_the_way = collections.deque()

    def create(self):
        said = self.broker.ask(
            "STREAM.CREATE." + self.stream,
            {
                "name": self.stream,
                "subjects": ["vminfod.>"],
                "duplicate_window": DUPLICATES_TIME,
            },
        )
        # 10058: there is one, with other settings, which is as well.
        error = said.get("error", {})
        if error and error.get("err_code") != 10058:
            raise OSError("the stream: %s" % error.get("description"))

    def since(self):
        """The last event that the stream has of this node, or None."""
        said = self.broker.ask(
            "STREAM.MSG.GET." + self.stream, {"last_by_subj": self.prefix + ">"}
        )
        error = said.get("error")
        # 10037: no message.
        if error and error.get("err_code") != 10037:
            raise OSError("the stream: %s" % error.get("description"))
        if error:
            return None
        last = json.loads(base64.b64decode(said["message"]["data"]))
        # A snapshot that was never finished is begun anew.
        if "seq" not in last:
            return None
        return "%s-%d" % (last["epoch"], last["seq"])

    def publish(self, uuid, kind, event, message_id=None):
        data = json.dumps(event, separators=(",", ":"), ensure_ascii=False)
        self.put(self.prefix + uuid + "." + kind, data.encode(), message_id)

    def put(self, subject, data, message_id):
        most = self.broker.info.get("max_payload", 1 << 20)
        if len(data) > most:
            # Without the VM it still tells what has changed.
            event = json.loads(data)
            event["vm"] = None
            event["too_large"] = len(data)
            data = json.dumps(event).encode()
        self.on_the_way.append(self.broker.publish(subject, data, message_id))
        while len(self.on_the_way) >= WINDOW:
            self.settle_one()

    def settle_one(self):
        """Waits until the oldest message is stored."""
        number, said = self.broker.answer()
        if "error" in said:
            raise OSError("not stored: %s" % said["error"]["description"])
        if number != self.on_the_way.popleft():
            raise OSError("answers out of order")

    def settle(self):
        while self.on_the_way:
            self.settle_one()

    def begin(self, ready):
        """The daemon says where its stream begins."""
        vms = ready.pop("vms", None)
        if ready.get("resumed"):
            return
        ready["type"] = "reset"
        seq, epoch = ready.pop("seq"), ready.pop("epoch")
        self.publish("-", "reset", ready)
        for vm in (vms or {}).values():
            event = {"type": "snapshot", "uuid": vm["uuid"], "vm": vm}
            self.publish(vm["uuid"], "snapshot", event)
        ready.update(type="ready", seq=seq, epoch=epoch)
        self.publish("-", "ready", ready)

    def run(self, events):
        parts = []
        while True:
            # What is there now; all of it is stored before more is read.
            read = os.read(events.fileno(), 1 << 16)
            if not read:
                return
            first, *more = read.split(b"\n")
            parts.append(first)
            if more:
                lines = [b"".join(parts)] + more
                parts = [lines.pop()]
                for line in lines:
                    self.take(line)
                self.settle()

    def take(self, line):
        event = json.loads(line)
        if event["type"] == "ready":
            self.begin(event)
            return
        message_id = "%s-%d" % (event["epoch"], event["seq"])
        subject = self.prefix + event["uuid"] + "." + event["type"]
        self.put(subject, line, message_id)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], epilog=__doc__.split("\n\n", 1)[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--nats", default="127.0.0.1:4222")
    parser.add_argument("--stream", default="VMINFOD")
    parser.add_argument("--node", default=socket.gethostname())
    parser.add_argument("--vminfod", default="vminfod")
    parser.add_argument("--create", action="store_true")
    args = parser.parse_args()
    # A token of a subject has no dots, blanks or wildcards.
    node = "".join(c if c.isalnum() or c in "-_" else "-" for c in args.node)
    bridge = Bridge(Broker(args.nats), args.stream, node)
    if args.create:
        bridge.create()
    since = bridge.since()
    command = [args.vminfod, "events", "-j", "-r", "--retry", "0"]
    command += ["--since", since] if since else []
    with subprocess.Popen(command, stdout=subprocess.PIPE) as events:
        try:
            bridge.run(events.stdout)
        finally:
            events.kill()
    raise EOFError("vminfod events has ended")


if __name__ == "__main__":
    try:
        main()
    except (OSError, EOFError, ValueError, KeyError) as e:
        print("events-to-nats: %s" % e, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
