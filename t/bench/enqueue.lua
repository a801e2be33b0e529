-- What people have today instead of an offloaded location: the request goes
-- to a Redis stream, and is answered 202 when Redis says it is there, which
-- with `appendfsync always` is after the fsync.  Runs in nginx's worker, as
-- content_by_lua_file, once a request; RESP is spoken by hand, since that is
-- the least a client can do: one send, and two lines of reply.

local tcp = ngx.socket.tcp
local req = ngx.req
local var = ngx.var

req.read_body()

local method = req.get_method()
local uri = var.request_uri
local headers = req.raw_header(true)
local body = req.get_body_data() or ""

local sock = tcp()
local ok, err = sock:connect("unix:" .. var.redis)

if ok then
    ok, err = sock:send({
        "*11\r\n$4\r\nXADD\r\n$4\r\njobs\r\n$1\r\n*\r\n",
        "$6\r\nmethod\r\n$", #method, "\r\n", method,
        "\r\n$3\r\nuri\r\n$", #uri, "\r\n", uri,
        "\r\n$7\r\nheaders\r\n$", #headers, "\r\n", headers,
        "\r\n$4\r\nbody\r\n$", #body, "\r\n", body, "\r\n",
    })
end

local id

if ok then
    id, err = sock:receive("*l")            -- the id's length, or an error

    if id and id:byte() == 36 then
        id, err = sock:receive("*l")

    elseif id then
        id, err = nil, id
    end
end

if not id then
    ngx.log(ngx.ERR, "redis: ", err)
    return ngx.exit(503)
end

sock:setkeepalive(60000, 1024)

ngx.status = 202
ngx.header["Location"] = "/jobs/" .. id
ngx.header["Content-Length"] = 0
ngx.send_headers()
