"""Python's http.client and urllib, as an agent uses them.

Arguments: port, a zonename. Ends with 0 if all is well.
"""
import http.client
import json
import sys
import urllib.error
import urllib.parse
import urllib.request

port, zonename = int(sys.argv[1]), sys.argv[2]

connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
for n in range(100):
    path = ["/ping", "/vms", "/vms/" + zonename, "/nothing"][n % 4]
    method = ["GET", "HEAD"][n // 4 % 2]
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status == (404 if n % 4 == 3 else 200), (path, answer.status)
    assert method == "GET" or body == b""
    if method == "GET" and answer.status == 200:
        json.loads(body)

# A body is refused, and the client hears of it.
connection.request("POST", "/vms", body=b"x" * 100)
assert connection.getresponse().status == 400
connection.close()

base = f"http://localhost:{port}"
query = urllib.parse.urlencode({"alias": "~.", "fields": "uuid,zonename"})
with urllib.request.urlopen(f"{base}/vms?{query}") as answer:
    vms = json.load(answer)
assert any(vm["zonename"] == zonename for vm in vms), vms
try:
    urllib.request.urlopen(f"{base}/vms/nobody")
    raise AssertionError("no 404")
except urllib.error.HTTPError as error:
    assert error.code == 404
    assert error.read() == b"VM Not Found: nobody"

with urllib.request.urlopen(f"{base}/events?snapshot=array") as answer:
    ready = json.loads(answer.readline())
assert any(vm["zonename"] == zonename for vm in ready["vms"])
