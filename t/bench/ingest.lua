-- A backend that takes events, one or many, one a line: each goes to a Redis
-- stream, all of a request in one pipeline, and the answer comes when Redis
-- has them.  Runs in nginx's worker, as content_by_lua_file, once a request.

local req = ngx.req

req.read_body()

local sock = ngx.socket.tcp()
local ok, err = sock:connect("unix:" .. ngx.var.redis)
local out, n = {}, 0

for event in req.get_body_data():gmatch("[^\n]+") do
    n = n + 1
    out[n] = "*5\r\n$4\r\nXADD\r\n$6\r\nevents\r\n$1\r\n*\r\n$5\r\nevent\r\n$"
             .. #event .. "\r\n" .. event .. "\r\n"
end

if ok then
    ok, err = sock:send(out)
end

-- an id for each: its length and the text, or an error

for i = 1, ok and n or 0 do
    local line = sock:receive("*l")

    if not line or line:byte() ~= 36 then
        ok, err = nil, line
        break
    end

    sock:receive("*l")
end

if not ok then
    ngx.log(ngx.ERR, "redis: ", err)
    return ngx.exit(503)
end

sock:setkeepalive(60000, 1024)
ngx.header["Content-Length"] = 3
ngx.print("ok\n")
