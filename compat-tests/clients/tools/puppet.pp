# Every type of puppetlabs-rabbitmq but rabbitmq_erlang_cookie, applied twice: the second time must change nothing.
rabbitmq_vhost { ['puppet', 'gone']: ensure => present }
-> rabbitmq_user { 'dan': admin => true, password => 'bar $y', tags => ['monitoring', 'tag1'] }
-> rabbitmq_user { 'eve': password => 'eve' }
-> rabbitmq_user_permissions { 'dan@puppet': configure_permission => '.*', read_permission => '.*', write_permission => '.*' }
-> rabbitmq_user_permissions { 'eve@puppet': configure_permission => '^$', read_permission => '^a\.[bc]', write_permission => 'x|y' }
-> rabbitmq_plugin { ['rabbitmq_management', 'rabbitmq_prometheus']: ensure => present }
-> rabbitmq_parameter { 'up@puppet':
  component_name => 'federation-upstream',
  value          => { 'uri' => 'amqp://elsewhere', 'expires' => '3600000' },
}
-> rabbitmq_policy { 'lengths@puppet':
  pattern    => '^bounded\.',
  priority   => 3,
  applyto    => 'queues',
  definition => { 'max-length' => '10', 'overflow' => 'reject-publish', 'message-ttl' => '60000' },
}
-> rabbitmq_exchange { 'topics@puppet': user => 'dan', password => 'bar $y', type => 'topic', durable => true, arguments => { 'alternate-exchange' => 'amq.fanout' } }
-> rabbitmq_queue { 'plain@puppet': user => 'dan', password => 'bar $y', durable => true, auto_delete => false }
-> rabbitmq_queue { 'work@puppet':
  user        => 'dan',
  password    => 'bar $y',
  durable     => true,
  auto_delete => false,
  arguments   => { 'x-queue-type' => 'quorum', 'x-expires' => 3600000, 'x-dead-letter-exchange' => 'topics' },
}
-> rabbitmq_binding { 'topics@work@puppet': user => 'dan', password => 'bar $y', destination_type => 'queue', routing_key => '#', arguments => {} }
-> rabbitmq_binding { 'second':
  source           => 'topics',
  destination      => 'work',
  vhost            => 'puppet',
  user             => 'dan',
  password         => 'bar $y',
  destination_type => 'queue',
  routing_key      => 'a.*',
  arguments        => {}, # The provider reads any others as none (Debian's 8.5.0), and changes them each time.
}
