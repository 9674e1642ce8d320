-- Writes the terminal state, once.
-- KEYS: 1 meta, 2 blocks, 3 session (or meta again). ARGV: 1 epoch, 2 last seq ('' = whatever it is), 3 turn,
-- 4 retention in ms, 5 how it ends if the backend has agreed to stop it ('' = the same way) and 6 why, 7 '1' = not while the
-- backend is being asked, 8… fields.
-- Reply: {1, false, watcher} written, {2, false, watcher} written as stopped, {0, outcome, reason, at} ended before,
-- {-1} another owner, {-2, seq} at another block, {-3} unknown, {-4} the backend is being asked to stop it.
local m = redis.call('HMGET', KEYS[1], 'ep', 'n', 'st', 'oc', 'rs', 'at', 'w', 'stop', 'ask')
if not m[1] then return {-3} end
if m[3] ~= 'R' then return {0, m[4], m[5], m[6]} end
if m[1] ~= ARGV[1] then return {-1} end
if ARGV[2] ~= '' then
  if m[2] ~= ARGV[2] then return {-2, m[2]} end
  if redis.call('EXISTS', KEYS[2]) == 0 then return {-3} end
end
if ARGV[7] == '1' and m[9] then return {-4} end
-- PEXPIRE is the first write: a full server lets it pass, and with it everything after it.
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
redis.call('HSET', KEYS[1], 'st', 'E', unpack(ARGV, 8))
local stopped = ARGV[5] ~= '' and m[8] == 'stop_soon'
if stopped then redis.call('HSET', KEYS[1], 'oc', ARGV[5], 'rs', ARGV[6]) end
if KEYS[3] ~= KEYS[1] and redis.call('HGET', KEYS[3], 'run') == ARGV[3] then
  redis.call('HDEL', KEYS[3], 'run')
  redis.call('PEXPIRE', KEYS[3], ARGV[4])
end
if stopped then return {2, false, m[7]} end
return {1, false, m[7]}
