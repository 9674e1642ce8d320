-- Keeps the answer's header if the epoch owns the running turn.
-- KEYS: 1 meta. ARGV: 1 epoch, 2 header. Reply: {1, false, watcher} written, {-1} fenced or unknown.
local m = redis.call('HMGET', KEYS[1], 'ep', 'st', 'w')
if m[1] ~= ARGV[1] or m[2] ~= 'R' then return {-1} end
redis.call('HSET', KEYS[1], 'hd', ARGV[2])
if m[3] then redis.call('HDEL', KEYS[1], 'w') end
return {1, false, m[3]}
