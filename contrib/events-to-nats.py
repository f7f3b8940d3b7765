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
stream has of this node. So each is stored before the next is sent, and one
that is sent twice is stored once: its number and the daemon's epoch are its
message's id. If the broker or the daemon can't go on, it ends with status 1,
to be started again. What is too large for the broker goes without the VM,
without values, or as its bare number, with its size as `too_large`.

NODE is the host's name; what can't be in a subject is as in a URL (%2E).
Needs Python 3.7 and nothing else. --create makes the stream if there is none.
"""

import argparse
import base64
import json
import os
import select
import socket
import subprocess
import sys
import urllib.parse

# How long the broker may take for anything, in seconds.
BROKER_TIME = 30

# Ids are kept so long by a stream that --create makes.
DUPLICATES_TIME = 3600 * 10**9

# Errors of JetStream.
NO_MESSAGE = 10037
TOO_LARGE = 10054
OTHER_SETTINGS = 10058


class Broker:
    """A connection to a NATS server, by its text protocol."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), BROKER_TIME)
        self.read = b""
        self.inbox = "_INBOX.vminfod.%d.%d" % (
            os.getpid(),
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

    def fill(self):
        read = self.socket.recv(1 << 16)
        if not read:
            raise EOFError("the broker has closed the connection")
        self.read += read

    def line(self):
        while b"\r\n" not in self.read:
            self.fill()
        line, self.read = self.read.split(b"\r\n", 1)
        if line.startswith(b"-ERR"):
            raise OSError("the broker says " + line.decode())
        if line == b"PING":
            self.send(b"PONG\r\n")
        return line

    def bytes(self, count):
        while len(self.read) < count:
            self.fill()
        data, self.read = self.read[:count], self.read[count:]
        return data

    def attend(self):
        """Reads what the broker says while nothing is asked of it."""
        self.fill()
        while b"\r\n" in self.read:
            self.line()

    def publish(self, subject, data, message_id=None):
        """Sends a message; its answer comes under the number returned."""
        self.count += 1
        reply = "%s.%d" % (self.inbox, self.count)
        headers = self.headers(message_id)
        head = "HPUB %s %s %d %d\r\n" % (
            subject,
            reply,
            len(headers),
            len(headers) + len(data),
        )
        self.send(head.encode() + headers + data + b"\r\n")
        return self.count

    @staticmethod
    def headers(message_id):
        headers = "NATS/1.0\r\n"
        if message_id is not None:
            headers += "Nats-Msg-Id: %s\r\n" % message_id
        return (headers + "\r\n").encode()

    def answer(self):
        """The next answer: the number that it is to, and what it says."""
        while True:
            words = self.line().split()
            if words[:1] not in ([b"MSG"], [b"HMSG"]):
                continue
            data = self.bytes(int(words[-1]) + 2)[:-2]
            if words[0] == b"HMSG":
                headers, data = data.split(b"\r\n\r\n", 1)
                if b" 503" in headers.split(b"\r\n")[0]:
                    raise OSError("the broker has no such stream")
            number = int(words[1].rsplit(b".", 1)[1])
            return number, json.loads(data)

    def answer_to(self, number):
        while True:
            answered, said = self.answer()
            if answered == number:
                return said

    def ask(self, subject, question):
        """The answer of JetStream's interface to a question."""
        data = json.dumps(question).encode()
        return self.answer_to(self.publish("$JS.API." + subject, data))


class Bridge:
    """From the daemon's events to a stream."""

    def __init__(self, broker, stream, node):
        self.broker = broker
        self.stream = stream
        self.prefix = "vminfod.%s." % node

    def create(self):
        said = self.broker.ask(
            "STREAM.CREATE." + self.stream,
            {
                "name": self.stream,
                "subjects": ["vminfod.>"],
                "duplicate_window": DUPLICATES_TIME,
            },
        )
        error = said.get("error", {})
        # One with other settings is as well.
        if error and error.get("err_code") != OTHER_SETTINGS:
            raise OSError("the stream: %s" % error.get("description"))

    def since(self):
        """The last event that the stream has of this node, or None."""
        said = self.broker.ask(
            "STREAM.MSG.GET." + self.stream, {"last_by_subj": self.prefix + ">"}
        )
        error = said.get("error")
        if error and error.get("err_code") != NO_MESSAGE:
            raise OSError("the stream: %s" % error.get("description"))
        if error:
            return None
        last = json.loads(base64.b64decode(said["message"]["data"]))
        # A snapshot that was never finished is made again.
        if "seq" not in last:
            return None
        return "%s-%d" % (last["epoch"], last["seq"])

    def publish(self, uuid, kind, event, message_id=None, data=None):
        """Has an event stored, as much of it as the broker takes."""
        subject = self.prefix + uuid + "." + kind
        most = self.broker.info.get("max_payload", 1 << 20)
        most -= len(self.broker.headers(message_id))
        for form in forms(event, data):
            if len(form) > most:
                continue
            number = self.broker.publish(subject, form, message_id)
            error = self.broker.answer_to(number).get("error")
            if not error:
                return
            if error.get("err_code") != TOO_LARGE:
                raise OSError("not stored: %s" % error.get("description"))
        raise OSError("not stored: even a bare number is too large")

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
        """Publishes what `vminfod events` prints, until it ends."""
        parts = []
        broker = self.broker.socket
        while True:
            ready, _, _ = select.select([events, broker], [], [])
            if broker in ready:
                self.broker.attend()
            if events not in ready:
                continue
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

    def take(self, line):
        event = json.loads(line)
        if event["type"] == "ready":
            self.begin(event)
            return
        message_id = "%s-%d" % (event["epoch"], event["seq"])
        self.publish(event["uuid"], event["type"], event, message_id, line)


def forms(event, data):
    """An event in fewer and fewer words."""
    whole = data or compact(event)
    yield whole
    event = dict(event, vm=None, too_large=len(whole))
    yield compact(event)
    if "changes" in event:
        names = ("prettyPath", "path", "action")
        event["changes"] = [
            {name: change[name] for name in names if name in change}
            for change in event["changes"]
        ]
        yield compact(event)
    names = ("type", "date", "zonename", "uuid", "seq", "epoch", "too_large")
    yield compact({name: event[name] for name in names if name in event})


def compact(event):
    text = json.dumps(event, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


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
    node = urllib.parse.quote(args.node, safe="").replace(".", "%2E")
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
