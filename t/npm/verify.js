// Deliveries of webhooks, checked by the Standard Webhooks library.  Reads
// {"secret":..., "messages":[{"headers":{...}, "body":"..."}]} and prints for
// each what the library returns, {"ok":...}, or why it throws, {"error":"..."}.

'use strict';

const { readFileSync } = require('fs');
const { Webhook } = require('standardwebhooks');

const { secret, messages } = JSON.parse(readFileSync(0, 'utf8'));
const webhook = new Webhook(secret);

console.log(JSON.stringify(messages.map(({ headers, body }) => {
    try {
        return { ok: webhook.verify(body, headers) };
    } catch (e) {
        return { error: `${e.name}: ${e.message}` };
    }
})));
