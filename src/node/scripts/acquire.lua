-- Takes the lock if it is free, and then counts its fencing token up and writes the attempt's id beside it.
-- KEYS: lock, fence   ARGV: owner, ttl ms, proposed token, fence ttl ms, id ('' for a random owner)
-- Returns {1, token}: granted, now or to this very attempt before; {0, pttl, hash}: another owner's, and a hash that
--         tells locks apart; {6, pttl, hash}: this owner's, but another attempt's; {-2}: the attempt has ended.
-- The fence holds `counter`, `counter id`, or an id with a letter behind it that is no digit of ids: `h` for a lock that
-- is held, `x` for an attempt that has ended.
-- The counter is read first: if it is of no use, nothing must have been written. Above 2^53 numbers are not exact.
local fence = redis.call('GET', KEYS[2]) or '0'
local counter, id, state = string.match(fence .. ' ', '^(%d+) (%x*)([hx]?) ?$')
local token = counter and math.max(tonumber(counter) + 1, tonumber(ARGV[3]))
if not token or token > 9e15 then return redis.error_reply('ERR the fencing counter holds no usable number') end
-- What comes behind the undo of its own attempt must not take the lock: nobody would release it.
if ARGV[5] ~= '' and id == ARGV[5] and state == 'x' then return {-2} end
local taken = redis.pcall('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
if taken and not taken.err then
  local mark = ARGV[5] ~= '' and ' ' .. ARGV[5] or ''
  redis.call('SET', KEYS[2], string.format('%.0f', token) .. mark, 'PX', ARGV[4])
  return {1, token}
end
local owner = redis.call('GET', KEYS[1])
-- Whose a lock is can be told without the memory that it takes to set one.
if taken and not (owner and string.find(taken.err, 'OOM ', 1, true)) then
  -- Redis 6 puts the place in the script before the server's words.
  return redis.error_reply((string.gsub(taken.err, '^@user_script: %d+: %-', '')))
end
-- Without its counter, what was granted before cannot be granted again: the token would not grow.
if owner == ARGV[1] and id == ARGV[5] and counter ~= '0' then return {1, tonumber(counter)} end
local hash = string.sub(redis.sha1hex(owner .. ' ' .. id), 1, 8)
return {owner == ARGV[1] and 6 or 0, redis.call('PTTL', KEYS[1]), hash}
