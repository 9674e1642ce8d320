-- Writes the terminal state, once.
-- KEYS: 1 meta, 2 blocks, 3 session (or meta again). ARGV: 1 epoch, 2 last seq ('' = whatever it is), 3 turn,
-- 4 retention in ms, 5… fields. Reply: {1, false, watcher} written, {0, outcome, reason, at} ended before,
-- {-1} another owner, {-2, seq} at another block, {-3} unknown.
local m = redis.call('HMGET', KEYS[1], 'ep', 'n', 'st', 'oc', 'rs', 'at', 'w')
if not m[1] then return {-3} end
if m[3] ~= 'R' then return {0, m[4], m[5], m[6]} end
if m[1] ~= ARGV[1] then return {-1} end
if ARGV[2] ~= '' then
  if m[2] ~= ARGV[2] then return {-2, m[2]} end
  if redis.call('EXISTS', KEYS[2]) == 0 then return {-3} end
end
-- PEXPIRE is the first write: a full server lets it pass, and with it everything after it.
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
redis.call('HSET', KEYS[1], 'st', 'E', unpack(ARGV, 5))
if KEYS[3] ~= KEYS[1] and redis.call('HGET', KEYS[3], 'run') == ARGV[3] then
  redis.call('HDEL', KEYS[3], 'run')
  redis.call('PEXPIRE', KEYS[3], ARGV[4])
end
return {1, false, m[7]}
