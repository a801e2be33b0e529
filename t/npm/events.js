// A job's events, as the npm package eventsource has them: each one's type, id
// and data, a line of JSON, until the server will not have it back.  Its
// connections are lines of their own: {"connection":<status>, "last":"<id>"}.

'use strict';

const { EventSource } = require('eventsource');

const events = new EventSource(process.argv[2], {
    fetch: async (url, init) => {
        const r = await fetch(url, init);

        say({ connection: r.status, last: init.headers['Last-Event-ID'] });

        return r;
    },
});

function say(o) {
    console.log(JSON.stringify(o));
}

for (const type of ['queued', 'running', 'progress', 'position', 'completed',
                    'failed', 'canceled'])
{
    events.addEventListener(type, (e) => say({
        type, id: e.lastEventId, doc: JSON.parse(e.data) }));
}

events.addEventListener('error', () => {
    if (events.readyState === EventSource.CLOSED) {
        say({ closed: true });
    }
});
