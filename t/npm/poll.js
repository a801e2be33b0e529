// A request that takes long, as Azure's clients make it: POST to the URL given,
// then the poller of @azure/core-lro until it is content, over the HTTP of
// @azure/core-rest-pipeline.  Prints how it ended, {"result":...} or
// {"error":...}, with each {"request":"GET /path","status":...}.

'use strict';

const { createHttpPoller } = require('@azure/core-lro');
const pipeline = require('@azure/core-rest-pipeline');

const client = pipeline.createDefaultHttpClient();
const line = pipeline.createEmptyPipeline();
const seen = [];

async function send(method, url, body) {
    const request = pipeline.createPipelineRequest({
        url, method, body, allowInsecureConnection: true,
    });
    const r = await line.sendRequest(client, request);

    seen.push({ request: `${method} ${new URL(url).pathname}`,
                status: r.status });

    let parsed = r.bodyAsText;

    try {
        parsed = JSON.parse(r.bodyAsText);
    } catch (e) {
        // the result may be anything
    }

    return {
        flatResponse: parsed,
        rawResponse: { statusCode: r.status, headers: r.headers.toJSON(),
                       body: parsed, request: { method, url } },
    };
}

const poller = createHttpPoller({
    sendInitialRequest: () => send('POST', process.argv[2], 'x'),
    sendPollRequest: (url) => send('GET', url),
}, { intervalInMs: 50 });

poller.pollUntilDone().then(
    (result) => ({ result }),
    (error) => ({ error: error.message, code: error.code }),
).then((end) => console.log(JSON.stringify({ ...end, seen })));
