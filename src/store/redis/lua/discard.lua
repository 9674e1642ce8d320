-- Takes a claim back.
-- KEYS: 1 meta, 2 blocks, 3 session (or meta again). ARGV: 1 epoch, 2 turn. Reply: {1} gone, {0} not the epoch's.
local m = redis.call('HMGET', KEYS[1], 'ep', 'st')
if m[1] ~= ARGV[1] or m[2] ~= 'R' then return {0} end
redis.call('DEL', KEYS[1], KEYS[2])
if KEYS[3] ~= KEYS[1] then
  local s = redis.call('HMGET', KEYS[3], 'run', 'last')
  if s[1] == ARGV[2] then redis.call('HDEL', KEYS[3], 'run') end
  if s[2] == ARGV[2] then redis.call('HDEL', KEYS[3], 'last') end
end
return {1}
