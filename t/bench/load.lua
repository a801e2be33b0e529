-- The load, by the environment:
--   BENCH_BODY   post a body of so many bytes, again and again
--   BENCH_JSON   or the JSON this file has
--   BENCH_STOP   and end after so many 202s (slower: looks at every answer)
--   BENCH_PAUSE  and wait so many milliseconds between two, on average
--   BENCH_PATHS  or get the paths in this file in turn, one path a line

local paths = os.getenv("BENCH_PATHS")
local stop = tonumber(os.getenv("BENCH_STOP") or 0)
local pause = tonumber(os.getenv("BENCH_PAUSE") or 0)

if paths then
    local requests = {}
    local at = 0

    init = function()
        for path in io.lines(paths) do
            requests[#requests + 1] = wrk.format("GET", path)
        end
    end

    request = function()
        at = at % #requests + 1

        return requests[at]
    end

else
    local json = os.getenv("BENCH_JSON")

    wrk.method = "POST"

    if json then
        wrk.body = io.open(json):read("*a")
        wrk.headers["Content-Type"] = "application/json"

    else
        wrk.body = string.rep("x", tonumber(os.getenv("BENCH_BODY")))
        wrk.headers["Content-Type"] = "application/octet-stream"
    end
end

if stop > 0 then
    local ffi = require("ffi")
    local accepted = 0

    ffi.cdef [[
        typedef struct { long s; long ns; } moment;
        int clock_gettime(int clock, moment *m);
    ]]

    local function now_us()
        local m = ffi.new("moment")

        ffi.C.clock_gettime(1, m)

        return tonumber(m.s) * 1e6 + tonumber(m.ns) / 1e3
    end

    local began

    response = function(status)
        began = began or now_us()

        if status == 202 then
            accepted = accepted + 1
        end

        if accepted == stop then
            took = now_us() - began
            wrk.thread:stop()
        end
    end
end

if pause > 0 then
    function delay()
        return math.random(0, math.floor(2 * pause + 0.5))
    end
end

-- wrk stays until its time is up, even when its only thread has stopped:
-- then `took` is how long the load lasted.

local only

function setup(thread)
    only = thread
end

function done(summary, latency)
    local e = summary.errors

    print(string.format("BENCH %d %d %d %d %d %d", summary.requests,
                        only:get("took") or summary.duration, e.status,
                        e.connect + e.read + e.write + e.timeout,
                        latency:percentile(50), latency:percentile(99)))
end
