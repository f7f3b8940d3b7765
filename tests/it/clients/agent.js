// Node's http with a keep-alive agent: many requests on few sockets, and a
// stream beside them. Arguments: port, a zonename. Ends with 0 if all is well.
'use strict';
const http = require('http');
const [port, zonename] = process.argv.slice(2);
const agent = new http.Agent({ keepAlive: true, maxSockets: 4 });
const sockets = new Set();

function fail(why) {
    console.error(why);
    process.exit(1);
}

function get(path, headers) {
    return new Promise((resolve, reject) => {
        const options = { host: '127.0.0.1', port, path, agent, headers };
        const request = http.get(options, (response) => {
            let body = '';
            response.setEncoding('utf8');
            response.on('data', (data) => { body += data; });
            response.on('end', () => resolve({ response, body }));
        });
        request.on('socket', (socket) => sockets.add(socket));
        request.on('error', reject);
    });
}

function stream() {
    return new Promise((resolve, reject) => {
        const options = { host: '127.0.0.1', port, path: '/events' };
        const request = http.get(options, (response) => {
            let text = '';
            response.on('data', (data) => {
                text += data;
                const end = text.indexOf('\n');
                if (end >= 0) {
                    const ready = JSON.parse(text.slice(0, end));
                    request.destroy();
                    resolve(JSON.parse(ready.vms));
                }
            });
        });
        request.on('error', reject);
    });
}

async function main() {
    const paths = ['/ping', '/vms', '/vms/' + zonename, '/status',
        '/vms?state=running&fields=uuid', '/vms/' + zonename + '?sync=1'];
    const jobs = [];
    for (let i = 0; i < 300; i++) {
        jobs.push(get(paths[i % paths.length]));
    }
    for (const { response, body } of await Promise.all(jobs)) {
        if (response.statusCode !== 200) {
            fail('status ' + response.statusCode + ': ' + body);
        }
        JSON.parse(body);
    }
    if (sockets.size > 8) {
        fail(sockets.size + ' sockets: connections did not stay');
    }
    const { response } = await get('/vms');
    const again = await get('/vms', { 'if-none-match': response.headers.etag });
    if (again.response.statusCode !== 304 || again.body !== '') {
        fail('no 304');
    }
    const missing = await get('/vms/nobody');
    if (missing.response.statusCode !== 404) {
        fail('no 404');
    }
    const vms = await stream();
    if (!vms.some((vm) => vm.zonename === zonename)) {
        fail('not in the stream');
    }
    agent.destroy();
}

main().catch((error) => fail(error.stack));
