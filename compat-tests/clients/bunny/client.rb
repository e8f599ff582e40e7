# frozen_string_literal: true

# bunny (Debian's package) against the broker. Speaks TAP: one line per test.

require 'bunny'
require 'securerandom'
require 'socket'
require 'timeout'

$stdout.sync = true
PATIENCE = 30
TESTS = []

def test(title, &body)
  TESTS << [title, body]
end

def connect(**options)
  host, port = ENV.values_at('BROKER_HOST', 'BROKER_PORT')
  defaults = { host: host, port: port.to_i, user: 'guest', password: 'guest', logger: Logger.new(IO::NULL),
               network_recovery_interval: 0.1, recovery_attempts: 300 }
  Bunny.new(**defaults, **options).start
end

def same(wanted, got)
  raise "#{got.inspect} instead of #{wanted.inspect}" unless wanted == got
end

def refused(*classes)
  yield
rescue *classes => e
  e
else
  raise "no #{classes.join(' or ')}"
end

def name(about)
  "ruby-#{about}-#{SecureRandom.hex(6)}"
end

def declared(channel, arguments = {}, about: 'q')
  channel.queue(name(about), durable: true, arguments: arguments)
end

# Publishes and waits for the confirm.
def put(channel, queue, body, **properties)
  channel.confirm_select unless channel.using_publisher_confirmations?
  channel.default_exchange.publish(body, routing_key: queue.name, persistent: true, **properties)
  channel.wait_for_confirms
end

# A consumer; what arrives is taken one by one.
class Arrivals
  def initialize(queue, manual_ack: true)
    @got = Queue.new
    queue.subscribe(manual_ack: manual_ack) { |*message| @got << message }
  end

  def take
    Timeout.timeout(PATIENCE) { @got.pop }
  end

  def none?(seconds)
    sleep(seconds)
    @got.empty?
  end
end

def control(command)
  host, port = ENV['BROKER_CONTROL'].split(':')
  TCPSocket.open(host, port.to_i) do |stream|
    stream.puts command
    same 'ok', stream.gets.to_s.strip
  end
end

test('right credentials open a connection') { |connection, _| same true, connection.open? }

test('wrong credentials are refused') do
  refused(Bunny::AuthenticationFailureError) { connect(password: 'wrong') }
end

test('messages go both ways under TLS') do
  folder = ENV['BROKER_CERTIFICATES'].to_s
  next 'certificates are made for a broker of ours' if folder.empty?

  secure = connect(host: '127.0.0.1', port: ENV['BROKER_TLS_PORT'].to_i, tls: true, verify_peer: true,
                   tls_ca_certificates: ["#{folder}/ca.pem"])
  channel = secure.create_channel
  queue = declared(channel)
  put(channel, queue, 's' * (1 << 20))
  same 1 << 20, Arrivals.new(queue, manual_ack: false).take[2].bytesize
  secure.close
end

test('an unknown vhost is refused') do
  error = refused(Bunny::NotAllowedError) { connect(vhost: 'nowhere') }
  same true, error.message.include?('vhost nowhere not found')
end

test('a heartbeat keeps an idle connection') do
  idle = connect(heartbeat: 1, automatically_recover: false)
  sleep 4
  same true, idle.open?
  idle.create_channel
  idle.close
end

test('every publish is confirmed') do |_, channel|
  queue = declared(channel)
  channel.confirm_select
  100.times { channel.default_exchange.publish('x', routing_key: queue.name) }
  same true, channel.wait_for_confirms
  same 100, queue.message_count
end

test('a full queue refuses a publish') do |_, channel|
  queue = declared(channel, { 'x-max-length' => 1, 'x-overflow' => 'reject-publish' })
  same true, put(channel, queue, 'one')
  same false, put(channel, queue, 'two')
end

test('a mandatory message comes back') do |_, channel|
  back = Queue.new
  exchange = channel.default_exchange
  exchange.on_return { |*message| back << message }
  exchange.publish('lost', routing_key: name('nowhere'), mandatory: true)
  info, _, body = Timeout.timeout(PATIENCE) { back.pop }
  same [312, 'NO_ROUTE', 'lost'], [info.reply_code, info.reply_text, body]
end

test('prefetch limits what is unacknowledged') do |_, channel|
  queue = declared(channel)
  %w[a b c].each { |body| put(channel, queue, body) }
  channel.prefetch(2)
  arrivals = Arrivals.new(queue)
  first = arrivals.take
  arrivals.take
  same true, arrivals.none?(0.3)
  channel.ack(first[0].delivery_tag)
  same 'c', arrivals.take[2]
end

test('a nacked message comes back') do |_, channel|
  queue = declared(channel)
  put(channel, queue, 'again')
  arrivals = Arrivals.new(queue)
  first = arrivals.take
  same false, first[0].redelivered?
  channel.nack(first[0].delivery_tag, false, true)
  same true, arrivals.take[0].redelivered?
end

test('rejected and expired messages are dead-lettered') do |_, channel|
  dead = declared(channel, about: 'dead')
  letters = { 'x-dead-letter-exchange' => '', 'x-dead-letter-routing-key' => dead.name }
  source = declared(channel, letters)
  put(channel, source, 'bad')
  info, = Arrivals.new(source).take
  arrivals = Arrivals.new(dead, manual_ack: false)
  channel.reject(info.delivery_tag, false)
  death = arrivals.take[1].headers['x-death'].first
  same ['rejected', source.name, 1], death.values_at('reason', 'queue', 'count')
  put(channel, declared(channel, letters.merge('x-message-ttl' => 100)), 'late')
  same 'expired', arrivals.take[1].headers['x-first-death-reason']
end

test('higher priorities come first') do |_, channel|
  queue = declared(channel, { 'x-max-priority' => 10 })
  [1, 9, 5].each { |priority| put(channel, queue, priority.to_s, priority: priority) }
  arrivals = Arrivals.new(queue, manual_ack: false)
  same %w[9 5 1], Array.new(3) { arrivals.take[2] }
end

test('direct reply-to answers a call') do |connection, channel|
  queue = declared(channel)
  queue.subscribe do |_, properties, body|
    answer = { routing_key: properties.reply_to, correlation_id: properties.correlation_id }
    channel.default_exchange.publish("done: #{body}", **answer)
  end
  client = connection.create_channel
  replies = Queue.new
  client.basic_consume('amq.rabbitmq.reply-to', '', true) { |*message| replies << message }
  call = { routing_key: queue.name, reply_to: 'amq.rabbitmq.reply-to', correlation_id: 'one' }
  client.default_exchange.publish('x', **call)
  _, properties, body = Timeout.timeout(PATIENCE) { replies.pop }
  same ['done: x', 'one'], [body, properties.correlation_id]
end

%w[restart kill].each do |command|
  test("after a #{command} topology and consumers recover") do |connection, channel|
    next 'a broker that cannot be restarted from here' if ENV['BROKER_CONTROL'].to_s.empty?

    exchange = channel.topic(name('x'), auto_delete: true)
    queue = channel.queue(name('exclusive'), exclusive: true).bind(exchange, routing_key: 'a.#')
    kept = declared(channel)
    put(channel, kept, 'kept')
    arrivals = Arrivals.new(queue, manual_ack: false)
    recovered = Queue.new
    connection.after_recovery_completed { recovered << true }
    control(command)
    Timeout.timeout(PATIENCE) { recovered.pop }
    exchange.publish('again', routing_key: 'a.b')
    same 'again', arrivals.take[2]
    same 'kept', Arrivals.new(kept, manual_ack: false).take[2]
  end
end

test('a consumer of a deleted queue is told') do |connection, channel|
  queue = declared(channel)
  cancelled = Queue.new
  consumer = Bunny::Consumer.new(channel, queue)
  consumer.on_cancellation { cancelled << true }
  queue.subscribe_with(consumer)
  connection.create_channel.queue_delete(queue.name)
  same true, Timeout.timeout(PATIENCE) { cancelled.pop }
end

test('a body of 16 MiB arrives as it was') do |_, channel|
  queue = declared(channel)
  body = SecureRandom.bytes(16 << 20)
  put(channel, queue, body)
  same true, Arrivals.new(queue, manual_ack: false).take[2].b == body
end

test('many channels work side by side') do |connection, channel|
  queue = declared(channel)
  200.times { put(connection.create_channel, queue, 'x') }
  same 200, queue.message_count
end

# The client itself fails over such names of queues: it joins them, as bytes, with texts in UTF-8.
test('names of exchanges and routing keys may be unicode') do |_, channel|
  queue = declared(channel)
  exchange = channel.topic(name('обмен-🐇'), auto_delete: true)
  queue.bind(exchange, routing_key: 'ключ.*')
  exchange.publish('ü', routing_key: 'ключ.é')
  info, _, body = Arrivals.new(queue, manual_ack: false).take
  texts = [info.exchange, info.routing_key, body].map { |text| text.dup.force_encoding('UTF-8') }
  same [exchange.name, 'ключ.é', 'ü'], texts
end

test('headers of every type arrive as they were') do |_, channel|
  queue = declared(channel)
  headers = {
    'bool' => true, 'int' => -32, 'long' => 1 << 40, 'float' => 0.25, 'text' => 'plain', 'none' => nil,
    'time' => Time.at(1_700_000_000), 'array' => [1, 'two', [2], { 'k' => 'v' }],
    'table' => { 'nested' => { 'deep' => 1 } }
  }
  put(channel, queue, 'x', headers: headers)
  same headers, Arrivals.new(queue, manual_ack: false).take[1].headers
end

test('a transaction is all or nothing') do |connection, channel|
  queue = declared(channel)
  other = connection.create_channel
  other.tx_select
  other.default_exchange.publish('undone', routing_key: queue.name)
  other.tx_rollback
  other.default_exchange.publish('done', routing_key: queue.name)
  other.tx_commit
  same 'done', queue.pop[2]
  same nil, queue.pop[2]
end

test('a soft error closes the channel only') do |connection, channel|
  refused(Bunny::NotFound) { channel.queue(name('nowhere'), passive: true) }
  same true, connection.create_channel.open?
end

failed = 0
TESTS.each.with_index(1) do |(title, body), number|
  connection = connect
  begin
    skipped = body.call(connection, connection.create_channel)
    puts "ok #{number} - #{title}#{" # SKIP #{skipped}" if skipped.is_a?(String)}"
  rescue StandardError, Timeout::Error => e
    failed += 1
    puts "not ok #{number} - #{title}", e.full_message(highlight: false).gsub(/^/, '# ')
  end
  begin
    connection.close
  rescue StandardError
    # Tests that lose their connection on purpose.
  end
end
puts "1..#{TESTS.length}"
exit(failed.zero?)
