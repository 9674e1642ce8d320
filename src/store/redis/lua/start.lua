-- Claims a turn and points its session to it.
-- KEYS: 1 meta, 2 blocks, 3 session (or meta again). ARGV: 1 epoch, 2 turn, 3 ttl in ms, 4 session mode
-- ('' | refuse | replace | again | ended: again, and about to end), 5 the running turn that may be replaced in spite of
-- refuse, 6 started at, 7… fields.
-- Reply: {1} claimed, {0} another owner or an end, {2, turn} the session is taken.
local m = redis.call('HMGET', KEYS[1], 'ep', 'st')
if m[1] and (m[1] ~= ARGV[1] or m[2] ~= 'R') then return {0} end
local blocks = redis.call('EXISTS', KEYS[2]) == 1
if m[1] and blocks then return {1} end
local take = false
if ARGV[4] ~= '' and KEYS[3] ~= KEYS[1] then
  local s = redis.call('HMGET', KEYS[3], 'run', 'since')
  if ARGV[4] == 'refuse' and s[1] and s[1] ~= ARGV[2] and s[1] ~= ARGV[5] then return {2, s[1]} end
  -- A forgotten turn that is started again must not take the session from a newer one, running or ended.
  local again = ARGV[4] == 'again' or ARGV[4] == 'ended'
  take = not (again and s[2] and tonumber(s[2]) > tonumber(ARGV[6]))
end
if blocks then redis.call('DEL', KEYS[2]) end
-- XADD is the first write: a full server refuses it, and with it the script, before anything is changed.
redis.call('XADD', KEYS[2], '0-1', 'v', '1')
redis.call('HSET', KEYS[1], 'ep', ARGV[1], 'n', '0', 'by', '0', 'st', 'R', unpack(ARGV, 7))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
if take then
  redis.call('HSET', KEYS[3], 'run', ARGV[2], 'last', ARGV[2], 'since', ARGV[6])
  if ARGV[4] == 'ended' then redis.call('HDEL', KEYS[3], 'run') end
  redis.call('PEXPIRE', KEYS[3], ARGV[3])
end
return {1}
